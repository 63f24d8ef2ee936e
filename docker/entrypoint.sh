#!/bin/sh
# Start the Lambda runtime client where Lambda (or its emulator) asks for it, the container server elsewhere.
#   (nothing)          python -m app
#   handler.handler    the Lambda handler of that name; also taken from the environment Lambda sets
#                      With LAMBDA_RESPONSE_MODE=stream the runtime that streams takes its place.
#   check-config       any other arguments go to python -m app
# exec, because Python must be process 1: it is the one that handles SIGTERM.
set -eu

# Process 1 gets no signal that it does not handle. What comes before Python handles it has to wait, not to be lost.
trap 'exit 0' TERM INT

# An empty variable counts as unset, and unset means a laptop's default to the service.
export HOST="${HOST:-0.0.0.0}" PORT="${PORT:-8000}" SESSIONS_FILE="${SESSIONS_FILE:-/tmp/sessions.db}"

lambda() {
    # Only with a managed runtime's name here does awslambdaric poll in a thread, which lets Python see SIGTERM.
    export AWS_EXECUTION_ENV="${AWS_EXECUTION_ENV:-AWS_Lambda_python3.13}"
    if [ "${LAMBDA_RESPONSE_MODE:-}" = stream ] && [ "${1:-handler.handler}" = handler.handler ]; then
        exec python -m app.lambda_runtime
    fi
    exec python -m awslambdaric "${1:-handler.handler}"
}

case "${1:-}" in
    *.*) lambda "$1" ;;
esac
if [ -n "${AWS_LAMBDA_RUNTIME_API:-}" ]; then
    lambda
fi
if env --block-signal=TERM,INT true 2>/dev/null; then  # coreutils 8.31; a base image may have others
    exec env --block-signal=TERM,INT python -m app "$@"
fi
exec python -m app "$@"
