# The HTTP service and its explorer on a processor: `mmrns serve` of runs that are mounted, read-only, under /runs.
#
#   docker build --tag mmrns .
#   export MMRNS_TOKEN=$(openssl rand -hex 24)
#   docker run --rm --publish 8765:8765 --env MMRNS_TOKEN --volume "$PWD/runs:/runs:ro" \
#     --read-only --tmpfs /tmp --cap-drop ALL mmrns /runs/first /runs/second
#
# Without $MMRNS_TOKEN it ends with a line that says so. A run without its dataset answers from what its folder keeps; one
# that reads features is mounted as a bundle (`mmrns export RUN --bundle DIR`), or with its dataset: --dataset /data/NAME.

FROM python:3.11-slim-bookworm AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/mmrns
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# The index of processors: on Linux the usual one has a torch that brings gigabytes of CUDA.
RUN /opt/mmrns/bin/pip install --constraint constraints.txt \
    --extra-index-url https://download.pytorch.org/whl/cpu '.[fast,hub,serve]'

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin mmrns
COPY --from=build /opt/mmrns /opt/mmrns
# What is compiled or downloaded is kept where anybody may write.
ENV PATH=/opt/mmrns/bin:$PATH PYTHONUNBUFFERED=1 XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /runs
USER 10001:10001
EXPOSE 8765
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8765/api/v1/health', timeout=4)"]
ENTRYPOINT ["mmrns", "serve", "--host", "0.0.0.0", "--port", "8765"]
CMD ["--help"]
