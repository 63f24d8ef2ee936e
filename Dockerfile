# One image for Lambda, Cloud Run, ECS and Kubernetes; docker/entrypoint.sh tells them apart.
# Plain Dockerfile syntax only: `sam build` and Docker Engine 20.10 must be able to build it.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /srv
COPY requirements.txt ./
# Wheels only: nothing is compiled from C, so no stage needs a compiler.
# unchecked-hash: Python never compares the bytecode with its source, so no time stamp that a copy changes can void it.
# chmod, here and below: files copied from a checkout with a strict umask would be unreadable to the user of the image.
RUN python -m venv --without-pip /opt/venv \
 && python -m pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --only-binary :all: \
        --require-hashes --no-deps -r requirements.txt \
 && python -m compileall -q --invalidation-mode unchecked-hash /opt/venv \
 && chmod -R a+rX /opt/venv
COPY handler.py ./
COPY app ./app
RUN python -m compileall -q --invalidation-mode unchecked-hash /srv \
 && chmod -R a+rX /srv

# The whole image but for its user: Lambda brings its own, and `sam local` must be root to add the emulator.
FROM ${PYTHON_IMAGE} AS lambda
# The slim image ships its standard library without bytecode, and as a non-root user nobody could ever store it.
# -f: what pip imports it stores the other way, with a time stamp, and compileall would leave that as it is.
RUN python -m pip uninstall --quiet --yes --root-user-action=ignore pip \
 && python -m compileall -q -f --invalidation-mode unchecked-hash "$(python -c 'import os; print(os.path.dirname(os.__file__))')"
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYDANTIC_DISABLE_PLUGINS=__all__ \
    HOST=0.0.0.0 \
    PORT=8000 \
    SESSIONS_FILE=/tmp/sessions.db
WORKDIR /srv
COPY docker/entrypoint.sh docker/healthcheck.py /usr/local/lib/agent-service/
COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv /srv
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["python", "/usr/local/lib/agent-service/healthcheck.py"]
ENTRYPOINT ["/bin/sh", "/usr/local/lib/agent-service/entrypoint.sh"]

FROM lambda
# A number, so that Kubernetes' runAsNonRoot can check it.
USER 10001:10001
