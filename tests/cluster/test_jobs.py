"""Experiments as jobs of a real cluster: eight processes, two pods, faults of all kinds, and what is left of them."""

import json
import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from orchestration.webhook import WEBHOOK
from tests.cluster.platform import HOST, ROOT, Platform
from tests.cluster.runs import (
    checkpoints,
    logged_steps,
    mlflow_runs,
    open_store,
    pointer,
    steps_per_s,
    tiny,
    wait_for_step,
    weights,
)
from tests.services import HANGS_S, s3_server, until
from tests.webhook import SECRET, WebhookServer

TWO = {"EVEREST_GPUS": "2"}

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and boto3 warn of themselves


def gone(platform: Platform, name: str) -> None:
    """Nothing of that name is left, once its pods had their time to end."""
    kinds = (platform.kind, "configmaps", "pods", "services")
    until(lambda: not any(found.startswith(name) for kind in kinds for found in platform.names(kind)), f"{name} to go")


@pytest.fixture(scope="module")
def pretrained(platform: Platform) -> str:
    done = platform.jobs("submit", "demo-pretrain", "--name", "pre", *tiny(4), "--wait", **TWO)
    assert done.code == 0, done.err
    return "pre"


def test_a_recipe_runs_as_a_pod_of_eight_ranks_is_registered_once_and_answers(
    platform: Platform, pretrained: str, videos: Path, tmp_path: Path
) -> None:
    arguments = " ".join(["--name", "eight", *tiny(20, init=f"work/{pretrained}", **{"optim.micro_batch": 1})])
    work = platform.environment["EVEREST_WORK"]
    done = platform.make("submit", "RECIPE=demo-finetune", f"ARGS={arguments}", f"WORK={work}")
    assert done.code == 0, done.err + done.out
    assert "eight succeeded" in done.err
    assert "8 processes on cpu" in platform.jobs("logs", "eight", "--rank", "0").out
    assert "--rank 8: eight has the ranks 0 to 7" in platform.jobs("logs", "eight", "--rank", "8").err
    assert [name[:13] for name in checkpoints(platform, "eight")] == ["step-00000010", "step-00000020"]

    client, (run,) = mlflow_runs(platform, "eight")
    assert run.info.status == "FINISHED"
    assert (run.data.params["optim.steps"], run.data.params["init"]) == ("20", "work/pre")
    assert {
        "everest.job": "eight",
        "everest.pod": platform.pod("eight"),
        "everest.image_digest": "not pinned",
    }.items() <= run.data.tags.items()
    assert len(run.data.tags["mlflow.source.git.commit"].removesuffix("-dirty")) == 40
    assert run.data.tags["everest.node"]
    assert run.info.artifact_uri.startswith("s3://")
    assert {"experiment.yaml", "figures"} <= {item.path for item in client.list_artifacts(run.info.run_id)}
    assert logged_steps(platform, "eight") == list(range(2, 21, 2))

    for _ in range(2):
        registered = platform.jobs("register", "eight", "--promote-if", "top1")
        assert registered.code == 0, registered.err
        assert registered.out == "models:/eight@candidate\n"
    (version,) = client.search_model_versions("name='eight'")
    assert version.tags["everest.address"].endswith(checkpoints(platform, "eight")[-1])
    assert float(version.tags["metric.test/top1"]) == pytest.approx(run.data.metrics["test/top1"], rel=1e-4)
    assert version.tags["everest.dataset.training"].startswith("data ")
    assert re.fullmatch("[0-9a-f]{64}", version.tags["everest.sha256"])
    answer = platform.everest("predict", "models:/eight@candidate", videos / "videos/00064.mp4", "--json")
    assert answer.code == 0, answer.err
    assert sum(json.loads(answer.out)["probabilities"].values()) == pytest.approx(1, abs=1e-3)

    listed = platform.jobs("list")
    assert re.search(r"^eight +succeeded +\S+ +\w+ +20/20 +100% +- +\d+% +\d\.\d+ +\S+", listed.out, re.M), listed.out
    back = platform.jobs("code", "eight", "--out", tmp_path / "code")
    assert back.out == f"{tmp_path}/code\n", back.err
    for name in ("everest/config.py", "Makefile"):
        assert (tmp_path / "code" / name).read_bytes() == (ROOT / name).read_bytes()
    other = platform.jobs("submit", "demo-pretrain", "--name", pretrained, *tiny(4, seed=1), "--wait", **TWO)
    assert other.code == 2
    assert "pre (finished) was begun with other settings (seed 0 -> 1); choose another --name" in other.err
    assert re.search(r"^pre +succeeded", platform.jobs("list").out, re.M)


def test_two_pods_of_eight_ranks_train_together_from_weights_of_another_run(
    platform: Platform, pretrained: str
) -> None:
    """And a webhook is told once."""
    arguments = tiny(6, init=f"work/{pretrained}", **{"optim.batch_size": 16, "optim.micro_batch": 1})
    with WebhookServer(host=HOST) as webhook:
        platform.kubectl("create", "secret", "generic", "news", f"--from-literal={WEBHOOK}={webhook.address}")
        settings = {"EVEREST_NODES": "2", "EVEREST_NOTIFY_SECRET": "news", "EVEREST_USER": "ada"}
        done = platform.jobs("submit", "demo-finetune", "--name", "two-pods", *arguments, "--wait", **settings)
        said = platform.jobs("logs", "two-pods").out
        assert done.code == 0, done.err + said
        (news,) = webhook.told
    assert (news["event"], news["run"], news["user"]) == ("finished", "two-pods", "ada")
    assert f"{'test/top1':24} {news['numbers']['test/top1']:.4g}\n" in said
    assert SECRET not in done.err + said
    assert "16 processes on cpu" in platform.jobs("logs", "two-pods", "--rank", "0").out
    assert logged_steps(platform, "two-pods") == [2, 4, 6]
    assert platform.names("pods") != []
    _, (run,) = mlflow_runs(platform, "two-pods")
    assert run.info.status == "FINISHED"


STEPS = 500
LONG = tiny(STEPS, **{"keep.checkpoint_steps": 20})


@pytest.fixture(scope="module")
def whole(platform: Platform) -> str:
    """A run that nothing happened to."""
    done = platform.jobs("submit", "demo-finetune", "--name", "whole", *LONG, "--wait", **TWO)
    assert done.code == 0, done.err
    return "whole"


def test_a_pod_deleted_and_one_killed_change_nothing_of_the_result(platform: Platform, whole: str) -> None:
    waiting = platform.start("submit", "demo-finetune", "--name", "faults", *LONG, "--wait", **TWO)
    wait_for_step(platform, "faults", 60)
    where = platform.jobs("shell", "faults", "--rank", "1", "--", "sh", "-c", "echo in $EVEREST_POD")
    first = platform.pod("faults")
    assert where.out == f"in {first}\n", where.err
    uid = platform.kubectl("get", "pod", first, "-o", "jsonpath={.metadata.uid}")
    platform.kubectl("delete", "pod", first, "--wait=false")
    until(lambda: replaced(platform, "faults", uid), "a new pod")
    wait_for_step(platform, "faults", 250)
    kill(platform, platform.pod("faults"))
    _, err = waiting.communicate(timeout=HANGS_S)
    assert waiting.returncode == 0, err

    log = platform.jobs("logs", "faults", "--rank", "0").out
    saved_at, resumed_at = map(int, re.findall(r"faults continues at step (\d+)", log))
    assert 60 <= saved_at <= resumed_at
    assert 200 <= resumed_at < STEPS
    logs_outlive_their_pods(platform, "faults")
    expected, found = weights(platform, whole), weights(platform, "faults")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert logged_steps(platform, "faults") == list(range(2, STEPS + 1, 2))
    client, (run,) = mlflow_runs(platform, "faults")
    shown = [item.path for item in client.list_artifacts(run.info.run_id, "logs")]
    assert shown == [f"logs/start-00{number}.log" for number in (1, 2, 3)]
    _, (undisturbed,) = mlflow_runs(platform, whole)
    losses = [
        sorted((entry.step, entry.value) for entry in client.get_metric_history(each.info.run_id, "train/loss"))
        for each in (run, undisturbed)
    ]
    assert losses[0] == losses[1]
    assert run.data.metrics["test/top1"] == undisturbed.data.metrics["test/top1"]


def logs_outlive_their_pods(platform: Platform, name: str) -> None:
    """Of the three pods, one after the other, two are gone."""
    log = platform.jobs("logs", name).out
    starts = re.split(rf"^--- start (\d+): {platform.place(name)}\S* on \S+\n", log, flags=re.MULTILINE)
    assert starts[0] == ""
    assert starts[1::2] == ["1", "2", "3"]
    for number, said in zip((1, 2, 3), starts[2::2], strict=True):
        asked = platform.jobs("logs", name, "--restart", str(number), "--rank", "0").out
        assert asked == "".join(line for line in said.splitlines(keepends=True) if line.startswith("[rank 0] "))
    assert f"[rank 0] INFO {name} starts" in starts[2]
    assert "stopped at step" in starts[2]
    found = platform.jobs("logs", name, "--grep", r"continues at step \d+", "--since", "1h").out
    assert [line.count("continues") for line in found.splitlines()] == [1, 1]
    assert "everest-secret" not in log


def replaced(platform: Platform, job: str, uid: str) -> bool:
    pods = json.loads(platform.kubectl("get", "pods", "-o", "json"))["items"]
    return any(each["metadata"]["name"] == platform.pod(job) and each["metadata"]["uid"] != uid for each in pods)


def kill(platform: Platform, pod: str) -> None:
    """SIGKILL to all of the pod's processes, as when its machine loses power."""
    uid = platform.kubectl("get", "pod", pod, "-o", "jsonpath={.metadata.uid}")
    victims = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit()
        and uid in _read(entry / "cgroup").replace("_", "-")
        and "python" in _read(entry / "cmdline")
    ]
    if not victims:
        pytest.skip("the pod's processes are not on this machine")
    for victim in victims:
        with suppress(ProcessLookupError):  # ended by its parent's end
            os.kill(victim, signal.SIGKILL)


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


@pytest.mark.parametrize("away_s", [10, pytest.param(30, marks=pytest.mark.long)])
def test_s3_and_then_mlflow_may_be_away(platform: Platform, whole: str, away_s: int) -> None:
    name = f"outages-{away_s}"
    steps = round((45 + 2 * away_s) * steps_per_s(platform, whole)) // 20 * 20
    arguments = tiny(steps, **{"keep.checkpoint_steps": 20, "keep.log_steps": 4})
    waiting = platform.start("submit", "demo-finetune", "--name", name, *arguments, "--wait", **TWO)
    wait_for_step(platform, name, 100)
    with s3_server.away():
        time.sleep(away_s)
    until(lambda: int(checkpoints(platform, name)[-1][5:13]) > 200, "checkpoints again", every=1)
    with platform.mlflow.away():
        time.sleep(away_s)
        assert waiting.poll() is None, "the job ended before MLflow was back"
    _, err = waiting.communicate(timeout=HANGS_S)
    assert waiting.returncode == 0, err

    log = platform.jobs("logs", name, "--rank", "0").out
    told = set(re.findall(r"(S3|MLflow) at \S+ (does not answer|answers again)", log))
    assert told == {(server, what) for server in ("S3", "MLflow") for what in ("does not answer", "answers again")}
    assert log.count(f"{name} starts") == 1
    assert [int(each[5:13]) for each in checkpoints(platform, name)] == [steps - 20, steps]
    assert logged_steps(platform, name) == list(range(4, steps + 1, 4))
    weights(platform, name)
    _, (run,) = mlflow_runs(platform, name)
    assert run.info.status == "FINISHED"
    assert "test/top1" in run.data.metrics


def test_a_cancelled_job_saves_and_its_damaged_checkpoints_are_passed_over(platform: Platform, whole: str) -> None:
    arguments = ("demo-finetune", "--name", "damaged", *LONG, "--keep.checkpoints", "3", "--wait")
    waiting = platform.start("submit", *arguments, **TWO)
    wait_for_step(platform, "damaged", 100)
    assert platform.jobs("cancel", "damaged").code == 0
    _, err = waiting.communicate(timeout=HANGS_S)
    assert waiting.returncode == 1
    assert "damaged was cancelled" in err
    gone(platform, "damaged")
    before, flipped, incomplete = checkpoints(platform, "damaged")[0], *reversed(checkpoints(platform, "damaged")[1:])
    saved = int(flipped[5:13])
    assert saved % 20 or saved == int(pointer(platform, "damaged", "latest")["checkpoint"][5:13])
    _, (run,) = mlflow_runs(platform, "damaged")
    assert run.info.status == "KILLED"

    store = open_store(platform, "damaged")
    client, where = store.client, {"Bucket": store.bucket, "Key": f"{store.prefix}{flipped}/training.pt"}
    content = bytearray(client.get_object(**where)["Body"].read())
    content[len(content) // 2] ^= 1
    client.put_object(**where, Body=bytes(content))
    client.delete_object(Bucket=store.bucket, Key=f"{store.prefix}{incomplete}/model.safetensors")
    store.close()

    done = platform.jobs("submit", *arguments, **TWO)
    assert done.code == 0, done.err
    log = platform.jobs("logs", "damaged", "--rank", "0").out
    for name in (flipped, incomplete):
        assert f"checkpoint {name} is damaged and passed over" in log
    assert f"damaged continues at step {int(before[5:13])}:" in log
    expected, found = weights(platform, whole), weights(platform, "damaged")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_what_cannot_work_is_said_in_a_line_and_leaves_nothing(platform: Platform) -> None:
    platform.kubectl("create", "secret", "generic", "wrong", "--from-literal=AWS_ACCESS_KEY_ID=everest",
                     "--from-literal=AWS_SECRET_ACCESS_KEY=not-the-key")  # fmt: skip
    cases = {
        "no-image": (
            ["--image", "localhost/nowhere:1"], 1,
            r"cannot start: the image localhost/nowhere:1 cannot be pulled: ",
        ),
        "no-gpus": (
            ["--gpus", "64"], 1,
            r"cannot start: not enough nvidia.com/gpu: 64 asked, but no node has more than \d+",
        ),
        "no-secret": (["--s3-secret", "absent"], 1, r"cannot start: the Secret absent does not exist in "),
        "no-key": (
            ["--s3-secret", "wrong", "--gpus", "2"], 2,
            r"S3 bucket .*: SignatureDoesNotMatch: .*\n(.*\n)*.*no-key was started wrongly",
        ),
        "no-setting": (
            ["--mask.keep_ration", "0.3"], 2,
            r"^everest-jobs: unknown setting 'mask.keep_ration'; did you mean 'mask.keep_ratio'",
        ),
    }  # fmt: skip
    many = {"optim.batch_size": 64, "optim.micro_batch": 1}
    started = {
        name: platform.start("submit", "demo-finetune", "--name", name, *tiny(10, **many), "--wait", *arguments)
        for name, (arguments, _, _) in cases.items()
    }
    for name, (_, code, said) in cases.items():
        out, err = started[name].communicate(timeout=HANGS_S)
        assert started[name].returncode == code, err
        assert re.search(said, err, re.M), err
        assert "Traceback" not in err
        assert "not-the-key" not in out + err
        gone(platform, name)


def test_what_a_job_runs_under_may_do_nothing(platform: Platform) -> None:
    """Neither its service account, nor a token that it could use."""
    account = f"system:serviceaccount:{platform.namespace}:default"
    for what in (
        "secrets",
        "configmaps",
        "pods",
        "pods/log",
        "pytorchjobs.kubeflow.org",
        "trainjobs.trainer.kubeflow.org",
        "events",
        "nodes",
    ):
        for verb in ("get", "list", "watch", "create", "delete"):
            asked = ["kubectl", "auth", "can-i", verb, what, "-n", platform.namespace, "--as", account]
            done = subprocess.run(asked, env=platform.environment, capture_output=True, text=True, check=False)
            assert done.stdout.strip() == "no", f"{verb} {what}"
    for pod in json.loads(platform.kubectl("get", "pods", "-o", "json"))["items"]:
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert not [volume["name"] for volume in pod["spec"]["volumes"] if "projected" in volume]
