"""Writes a run, an artifact and a study, and reads them back."""

import os
import tempfile
import uuid
from pathlib import Path

import mlflow
import optuna

name = f"helm-test-{uuid.uuid4().hex[:8]}"
mlflow.set_experiment("helm-test")
with mlflow.start_run(run_name=name) as run, tempfile.TemporaryDirectory() as folder:
    mlflow.log_metric("answer", 42, step=7)
    Path(folder, "artifact.txt").write_text(name)
    mlflow.log_artifact(f"{folder}/artifact.txt")
client = mlflow.MlflowClient()
assert [(each.value, each.step) for each in client.get_metric_history(run.info.run_id, "answer")] == [(42, 7)]
assert run.info.artifact_uri.startswith("s3://"), run.info.artifact_uri
assert (
    Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="artifact.txt")).read_text() == name
)
print(f"MLflow has the run {name}, S3 its artifact")

study = optuna.create_study(study_name=name, storage=os.environ["STUDIES_URI"])
study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
read = optuna.load_study(study_name=name, storage=os.environ["STUDIES_URI"])
assert [trial.value for trial in read.trials] == [trial.value for trial in study.trials]
print(f"the database has the study {name}")

client.delete_run(run.info.run_id)
optuna.delete_study(study_name=name, storage=os.environ["STUDIES_URI"])
