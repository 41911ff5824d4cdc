# The command line in a container, on CPUs. For GPUs take PyPI's own torch:
#   docker build --build-arg TORCH_INDEX=https://pypi.org/simple --tag prunerzero .
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN pip install torch --index-url "$TORCH_INDEX" -c constraints.txt
COPY src src
RUN pip install '.[all]' -c constraints.txt \
    && useradd --create-home prunerzero \
    && install --directory --owner prunerzero /cache /work

# Models, texts and statistics stay in a volume; studies and checkpoints go to /work.
ENV PRUNERZERO_CACHE=/cache HF_HOME=/cache/huggingface
VOLUME ["/cache", "/work"]
WORKDIR /work
USER prunerzero
ENTRYPOINT ["prunerzero"]
CMD ["--help"]
