#!/usr/bin/env bash
# Installs the gateways that `make bench` compares with, each in a virtual environment of its own:
#   benchmarks/peers.sh [vllm] [sglang] [litellm]      all three without arguments; LiteLLM is large
# They go to $MOORING_BENCH_PEERS, or ~/.cache/mooring-bench/peers. nginx comes from the system.
set -euo pipefail

folder="${MOORING_BENCH_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/mooring-bench/peers}"
python="${PYTHON:-python3}"

packages_of() {
    case "$1" in
        vllm) echo "vllm-router==0.1.17" ;;
        sglang) echo "sglang-router==0.3.2" ;;
        # Without the last two LiteLLM is slower still.
        litellm) echo "litellm[proxy]==1.106.2 opentelemetry-sdk httptools" ;;
        *) echo "$1: there are vllm, sglang and litellm" >&2; return 1 ;;
    esac
}

(($#)) || set -- vllm sglang litellm
failed=()
for name in "$@"; do
    packages="$(packages_of "$name")"
    mkdir -p "$folder"
    echo "$folder/$name: $packages"
    # shellcheck disable=SC2086  # several packages
    if { [[ -x "$folder/$name/bin/pip" ]] || "$python" -m venv "$folder/$name"; } &&
        "$folder/$name/bin/pip" install --quiet --disable-pip-version-check $packages; then
        # Some machines forbid Python to write bytecode at run time: every start would compile anew.
        env -u PYTHONDONTWRITEBYTECODE "$folder/$name/bin/python" -m compileall -q "$folder/$name/lib" >/dev/null 2>&1 || true
    else
        failed+=("$name")
    fi
done
if ((${#failed[@]})); then
    echo "Not installed: ${failed[*]}. make bench leaves them out." >&2
    exit 1
fi
