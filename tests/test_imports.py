"""What a process imports before it works: seconds of every run, worker and command."""

import subprocess
import sys

HEAVY = ("torchvision", "timm", "torch._dynamo", "sympy", "matplotlib", "mlflow", "pandas", "sklearn", "optuna")


def evaluated(expression: str, *modules: str) -> str:
    """In a new process that has imported these."""
    program = f"import sys, {', '.join(modules)}; print({expression})"
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


def test_nothing_heavy_but_torch_is_imported_to_read_train_and_predict() -> None:
    modules = ("everest.training.run", "everest.data.loader", "everest.predict", "orchestration.pod.rank")
    assert evaluated(f"[name for name in {HEAVY} if name in sys.modules]", *modules) == "[]"


def test_workers_of_a_run_with_rand_augment_find_timm_imported() -> None:
    """By the server that they are forked from, once."""
    there = "'everest.data.rand_augment' in __import__('sys').modules"
    config = "everest.config.Experiment(stage='finetune')"
    asked = f"everest.data.workers.worker_context({config}).Pool(1).apply(eval, ({there!r},))"
    assert evaluated(asked, "everest.data.workers", "everest.config") == "True"
