# The image runs TorchServe and the gateway, or one of them.
#
#     make image         # docker build
#     make image-test    # build it, and test it on a Docker engine
#
# The base is pinned by its full version. To pin a digest: --build-arg BASE=python:3.11.14-...@sha256:...
# checkov:skip=CKV_DOCKER_7: the version is in BASE
ARG BASE=docker.io/library/python:3.11.14-slim-bookworm

FROM ${BASE} AS build
# PyTorch's own index has CPU wheels, a tenth of the size of PyPI's; its links contain checksums.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Another version than in requirements.txt, such as torch==2.13.0.
ARG TORCH=
# An index instead of PyPI; pip reads this variable.
ARG PIP_INDEX_URL
WORKDIR /app
COPY requirements.txt requirements-cpu.txt ./
RUN python3.11 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements-cpu.txt \
    && torch="$(grep -o '^torch==[0-9.]*' requirements.txt)" \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps --index-url "${TORCH_INDEX}" "${TORCH:-$torch}"
COPY models models
COPY files files
COPY training training
COPY handler handler
RUN /opt/venv/bin/python -m training archive --output model_store/catsdogs.mar \
    # Packages needed only for the build.
    && /opt/venv/bin/pip uninstall --yes torch-model-archiver enum-compat openvino-telemetry setuptools \
        wheel pip \
    && torch=/opt/venv/lib/python3.11/site-packages/torch \
    && rm -rf "$torch/include" "$torch/test" "$torch"/bin/*[tT]est* "$torch"/bin/protoc*

FROM ${BASE}
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="catsdogs" \
    org.opencontainers.image.description="Cat-or-dog photo classifier on TorchServe, behind an nginx gateway" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
# The gateway. Debian keeps only its newest nginx, so a pinned version would soon be missing.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends nginx \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -m 0700 -o 10001 -g 10001 /uploads
# On disk, and writable even if the root file system is not.
VOLUME /uploads
WORKDIR /app
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app/model_store model_store
COPY handler/metrics.yaml handler/
COPY config.properties log4j2.xml ./
COPY gateway gateway
COPY files files
COPY tools tools
# 0.0.0.0 is the container's own network; `docker run` decides what is published. The model API is off:
# a new model needs a new image, or a new archive and a restart.
ENV CATSDOGS_HOST=0.0.0.0 \
    CATSDOGS_LOGS=stdout \
    CATSDOGS_UPLOADS=/uploads \
    LOG_LOCATION=/tmp/logs \
    TS_ENABLE_MODEL_API=false \
    PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
# Classifies a picture. Port 8002 is for metrics and probes.
HEALTHCHECK --interval=30s --timeout=10s --start-period=2m --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8002/ready', timeout=8)"]
ENTRYPOINT ["python", "tools/serve"]
