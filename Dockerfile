# Two stages: what installs stays behind, what runs is copied. Build it with: docker build --tag replicator:0.1.0 .
# A minor version's tag: its rebuilds bring the security updates. glibc, as the embedded queue's server needs it.
FROM python:3.11-slim-bookworm AS build
WORKDIR /build
RUN python -m venv /opt/replicator
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY replicator ./replicator
RUN /opt/replicator/bin/pip install --no-cache-dir --constraint constraints.txt '.[aliyun,otlp]'

FROM python:3.11-slim-bookworm
# A fixed id, so that files and volumes of the host can be given to it by number.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/replicator replicator \
    && install --directory --owner=replicator --group=replicator --mode=0700 /var/lib/replicator
COPY --from=build /opt/replicator /opt/replicator
ENV PATH=/opt/replicator/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    REPLICATOR_STATE_DIR=/var/lib/replicator \
    REPLICATOR_CONFIG=/etc/replicator/rules.yaml \
    REPLICATOR_LISTEN=0.0.0.0:8080
USER replicator
WORKDIR /var/lib/replicator
VOLUME /var/lib/replicator
EXPOSE 8080
# The embedded queue has up to 30 s to load its data. Switch this off for `replicator worker`, which serves nothing.
HEALTHCHECK --interval=30s --timeout=5s --start-period=40s --retries=3 \
    CMD ["python", "-c", "import http.client; ask = http.client.HTTPConnection('127.0.0.1', 8080, timeout=4); ask.request('GET', '/healthz'); raise SystemExit(ask.getresponse().status != 200)"]
ENTRYPOINT ["replicator"]
CMD ["serve"]
