# roof-classify as an image: docker build -t roof-classify .   (on a processor)
#                            docker build -t roof-classify:gpu --build-arg FLAVOUR=gpu .
# docker run --rm --init --user "$(id -u):$(id -g)" -v "$PWD:/work" roof-classify run --prod
FROM python:3.12-slim-bookworm AS build
ARG FLAVOUR=
WORKDIR /src
COPY requirements.lock setup.sh ./
RUN bash setup.sh --requirements "$FLAVOUR" > /requirements.txt \
 && python -m venv --without-pip /opt/roof-classify \
 && python -m pip --python /opt/roof-classify install --no-cache-dir --no-deps --require-hashes -r /requirements.txt
COPY . .
RUN /opt/roof-classify/bin/python -c 'import setuptools.build_meta as build; build.build_wheel("/tmp")' \
 && python -m pip --python /opt/roof-classify install --no-cache-dir --no-deps --no-index /tmp/roof_classify-*.whl \
 && find /opt/roof-classify -type d \( -name tests -o -path '*/tensorflow/include' \) -prune -exec rm -r {} +

FROM python:3.12-slim-bookworm
# What the wheels of GDAL and others take from the system; Debian keeps no old versions, so none is named.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends libexpat1 libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --no-create-home roof \
 && install -d -o roof -g roof /work
COPY --from=build /opt/roof-classify /opt/roof-classify
# whoever runs it has a home for caches; with --gpus, the driver is lent to the container
ENV PATH=/opt/roof-classify/bin:$PATH \
    HOME=/tmp \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /work
VOLUME /work
ENTRYPOINT ["roof-classify"]
CMD ["-h"]
