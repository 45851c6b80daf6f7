# The server. docker build -t llada-v .                                          on a CPU
#             docker build -t llada-v --build-arg TORCH=cu128 .                   with CUDA (docker run --gpus all)
FROM python:3.12-slim-bookworm

# Where torch's wheels come from: cpu, or a CUDA version that torch is built for.
ARG TORCH=cpu
ARG EXTRAS=serve,structured

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY llada_v llada_v
COPY data/demo.png data/demo.png
COPY eval/settings.yaml eval/settings.yaml
COPY eval/tasks eval/tasks
COPY model/llada-v-tiny model/llada-v-tiny
COPY scripts/deepspeed scripts/deepspeed
COPY scripts/courses scripts/courses
COPY scripts/recipes scripts/recipes
RUN pip install "$(sed -n 's/^# \(torch==.*\)/\1/p' constraints.txt)" --index-url "https://download.pytorch.org/whl/${TORCH}" \
    && pip install --constraint constraints.txt ".[${EXTRAS}]" \
    && useradd --create-home llada
USER llada

EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "from urllib.request import urlopen as ask; ask('http://127.0.0.1:8000/ready')"]
# A first SIGTERM lets running answers finish.
STOPSIGNAL SIGTERM
ENTRYPOINT ["llada-v", "serve", "--host", "0.0.0.0"]
