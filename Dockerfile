# Two stages: what installs stays behind, what runs is copied. Build it with `make image`, or for two architectures with:
#   docker buildx build --platform linux/amd64,linux/arm64 --tag REGISTRY/replicator:0.1.0 --push .
# Another base (with Python and glibc, which the embedded queue's server needs) or a mirror of the package index:
#   make image IMAGE_ARGS='--build-arg BASE_IMAGE=... --build-arg PIP_INDEX_URL=https://YOUR-MIRROR/simple'
# A minor version's tag: its rebuilds bring the security updates.
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE} AS build
# pip reads it; every package is checked by its hash, so a mirror needs no trust.
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# By hashes: what an index has under the same name and version is not enough.
COPY build.lock requirements.lock ./
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --requirement build.lock \
    && /opt/build/bin/pip wheel --require-hashes --no-deps --no-build-isolation --wheel-dir wheels \
        --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY replicator ./replicator
# Without pip, which is of no use in what is copied.
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir wheels . \
    && python -m venv --without-pip /opt/replicator \
    && /opt/build/bin/pip --python /opt/replicator/bin/python install --no-index --no-deps wheels/*.whl

FROM ${BASE_IMAGE}
# A fixed id, so that files and volumes of the host can be given to it by number. Any other user is in group 0, as
# OpenShift wants it.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/replicator replicator \
    && install --directory --owner=replicator --group=root --mode=0770 /var/lib/replicator
COPY --from=build /opt/replicator /opt/replicator
ENV PATH=/opt/replicator/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    REPLICATOR_STATE_DIR=/var/lib/replicator \
    REPLICATOR_CONFIG=/etc/replicator/rules.yaml \
    REPLICATOR_LISTEN=0.0.0.0:8080
# By number, since Kubernetes can't tell from a name that it is not root.
USER 10001:10001
WORKDIR /var/lib/replicator
# The one place that is written to, besides /tmp: the rest can be read-only (--read-only --tmpfs /tmp).
VOLUME /var/lib/replicator
# The webhook, with /metrics; and where `replicator worker` has its metrics and probes once it is told to.
EXPOSE 8080 9090
# Asks where the metrics are, if that is an address of its own, else where the webhook is, by HTTPS if it has that. The
# embedded queue has up to 30 s to load its data. Switch this off for a `replicator worker` without
# REPLICATOR_METRICS_LISTEN.
HEALTHCHECK --interval=30s --timeout=10s --start-period=40s --retries=3 CMD ["replicator", "health"]
ENTRYPOINT ["replicator"]
CMD ["serve"]
ARG REVISION=unknown
LABEL org.opencontainers.image.title="replicator" \
      org.opencontainers.image.description="Copies images from Harbor to Alibaba Cloud Container Registry (ACR) at every push" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
