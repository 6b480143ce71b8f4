#!/usr/bin/env bash
# Builds the server and runs `everlog dev` with the arguments given, e.g. `./deploy/dev.sh --ephemeral --port 0`.
# Installs what is missing first; the first build takes a while, and cargo shows how far it is. Data goes to ./everlog-data, relative to where this is called.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/deploy/toolchain.sh"

require_rust
exec cargo run --profile quick --locked --manifest-path "$root/Cargo.toml" -p everlog-server --bin everlog -- dev "$@"
