# mspn serve in a container.
#
#   docker build -t mspn .                              # for a CPU
#   docker build -t mspn-cuda --build-arg EXTRA=cuda13 .  # for an NVIDIA GPU; cuda12 for older drivers
#
#   docker run --rm -p 127.0.0.1:8000:8000 -v mspn:/home/mspn/models mspn
#   docker run --rm -p 127.0.0.1:8000:8000 -v mspn:/home/mspn/models --gpus all mspn-cuda
#
# CUDA's libraries come with JAX's wheels: the machine needs only NVIDIA's driver and container
# toolkit. The detector runs on the CPU in both.

ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS build
ARG EXTRA=""
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY mspn_jax mspn_jax
COPY configs configs
RUN python -m venv /opt/mspn \
  && /opt/mspn/bin/pip install --no-cache-dir -c constraints.txt ".[serve,onnx${EXTRA:+,$EXTRA}]"

FROM python:${PYTHON}-slim
RUN useradd --create-home --uid 10001 mspn \
  && mkdir /home/mspn/models \
  && chown mspn:mspn /home/mspn/models
COPY --from=build /opt/mspn /opt/mspn
ENV PATH=/opt/mspn/bin:$PATH \
    MSPN_HOME=/home/mspn/models \
    PYTHONUNBUFFERED=1
USER 10001
WORKDIR /home/mspn
# What is fetched once: the network and the detector.
VOLUME /home/mspn/models
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=5m CMD ["python", "-c", \
  "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=5)"]
ENTRYPOINT ["mspn"]
CMD ["serve", "--host", "0.0.0.0"]
