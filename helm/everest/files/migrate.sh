# Brings the databases to what this image's MLflow and Optuna expect. Done again, it changes nothing.
set -eu
mlflow db upgrade "$MLFLOW_URI"
optuna --storage "$STUDIES_URI" studies >/dev/null  # makes the tables where there are none
optuna --storage "$STUDIES_URI" storage upgrade
if [ -n "${AUTH_URI:-}" ]; then python -m mlflow.server.auth db upgrade --url "$AUTH_URI"; fi
