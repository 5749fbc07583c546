# The image that jobs run: Python, the locked requirements, this project. Any user id can run it.
#   make image IMAGE=registry.example.org/everest:1
# And a small one, of MLflow, optuna-dashboard and what looks after jobs, for helm/everest:
#   make image TARGET=platform IMAGE=registry.example.org/everest-platform:1
# BASE_IMAGE: any image of Debian or Ubuntu with Python 3.11 or newer, its venv module and, for optim.compile, its headers.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS platform-requirements
RUN python3 -m venv /opt/everest
ENV PATH=/opt/everest/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements-platform.txt /tmp/requirements.txt
RUN pip install --require-hashes -r /tmp/requirements.txt

FROM platform-requirements AS project
COPY pyproject.toml README.md LICENSE /src/
COPY everest /src/everest
COPY orchestration /src/orchestration
COPY sweeps /src/sweeps
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheel /src

FROM ${BASE_IMAGE} AS platform
COPY --from=platform-requirements /opt/everest /opt/everest
ENV PATH=/opt/everest/bin:$PATH PYTHONUNBUFFERED=1
COPY --from=project /wheel /tmp/wheel
RUN pip install --no-cache-dir --no-deps /tmp/wheel/*.whl && rm -r /tmp/wheel
LABEL org.opencontainers.image.title="EVEREST platform" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 1000:1000
WORKDIR /tmp
CMD ["mlflow", "--help"]

FROM ${BASE_IMAGE} AS requirements
RUN python3 -m venv /opt/everest
ENV PATH=/opt/everest/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.txt /tmp/requirements.txt
RUN pip install --require-hashes -r /tmp/requirements.txt

FROM ${BASE_IMAGE} AS job
# What optim.compile calls; without it auto is off.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc g++ && rm -rf /var/lib/apt/lists/*
COPY --from=requirements /opt/everest /opt/everest
ENV PATH=/opt/everest/bin:$PATH PYTHONUNBUFFERED=1
COPY requirements.txt /opt/everest/requirements.txt
ENV EVEREST_IMAGE_REQUIREMENTS=/opt/everest/requirements.txt
COPY --from=project /wheel /tmp/wheel
RUN pip install --no-cache-dir --no-deps /tmp/wheel/*.whl && rm -r /tmp/wheel
ARG COMMIT=
LABEL org.opencontainers.image.title="EVEREST" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision=${COMMIT}
ENV EVEREST_IMAGE_COMMIT=${COMMIT}
USER 1000:1000
WORKDIR /work
CMD ["everest", "--help"]
