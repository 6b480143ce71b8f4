#!/usr/bin/env bash
# The gate: everything that must pass before a change is good. Installs what is missing, stops at the first failing step.
#
#   tests/run.sh                       all steps, in order
#   tests/run.sh --only STEP...        these steps
#   tests/run.sh --list                the names of the steps
#
# The last line is `N passed, N failed`: the tests of all steps that ran, where a step without tests counts as one.
# EVERLOG_BIN names a server binary to test instead of building one; EVERLOG_ADDRESS a running server for the SDK suites.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
source deploy/toolchain.sh

all_steps=(fmt clippy rust-tests doc deny build sdk-python sdk-typescript sdk-go cli http crash cluster bench-smoke fuzz)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/everlog
logs=$(mktemp -d "${TMPDIR:-/tmp}/everlog-tests.XXXXXX")
serve_s_max=60
drain_s_max=20
passed=0
failed=0
server_pid=

# --- steps -------------------------------------------------------------------------------------------------------

step_fmt() {
	require_rust
	cargo fmt --all --check
}

step_clippy() {
	require_rust
	cargo clippy --locked --workspace --all-targets -- -D warnings
}

step_rust-tests() {
	require_rust
	cargo test --locked --workspace
}

step_doc() {
	require_rust
	RUSTDOCFLAGS=-Dwarnings cargo doc --locked --workspace --no-deps
}

step_deny() {
	if have cargo-deny; then
		# The advisory database is not part of the checkout; only what the checkout decides is gated.
		cargo deny --locked check bans licenses sources
	else
		echo "cargo-deny is not installed: skipped"
	fi
}

step_build() {
	require_rust
	cargo build --locked -p everlog-server --bin everlog
}

step_sdk-python() {
	prepare_python
	"$python" -m pytest --rootdir tests/sdk/python -c tests/sdk/python/pytest.ini -p no:cacheprovider \
		-n 4 --tb=short --show-capture=no --durations=5 tests/sdk/python
}

step_sdk-typescript() {
	require_node
	# npm installs beside package.json, so the suite runs from a copy.
	local copy=$cache/tests/typescript
	mkdir -p "$copy"
	cp tests/sdk/typescript/*.js tests/sdk/typescript/package*.json "$copy/"
	# Not `npm ci`, which refuses the lock file on platforms whose optional packages it does not list.
	once "$copy/installed" tests/sdk/typescript/package-lock.json npm --prefix "$copy" install --no-audit --no-fund
	EVERLOG_TEST_SERVER=$root/deploy/test-server.sh npm --prefix "$copy" test --silent
}

step_sdk-go() {
	require_go
	go -C tests/sdk/go mod download
	go -C tests/sdk/go vet ./...
	go -C tests/sdk/go test -count=1 -v ./... | grep -vE '^=== (RUN|PAUSE|CONT|NAME)'
}

# What the `temporal` command line prints, against what it printed with a Temporal server.
step_cli() {
	prepare_cli
	"$python" tests/cli/run.py
}

# What the HTTP API answers, against what that of a Temporal server answered.
step_http() {
	prepare_cli
	"$python" tests/http/run.py
	once "$cache/tests/python/http-installed" tests/http/requirements.txt \
		"$python" -m pip install --quiet --disable-pip-version-check -r tests/http/requirements.txt
	"$python" tests/http/clients.py
}

# Less than what `python tests/crash/crash.py` does by itself.
step_crash() {
	prepare_python
	"$python" tests/crash/crash.py --kills 10 --workflows 60
}

# Three nodes that are killed, stopped and cut off: raw calls under a checker, then SDK workers. EVERLOG_CLUSTER_SECONDS: for longer.
step_cluster() {
	require_rust
	require_go
	prepare_python
	cargo run --locked -q -p everlog-cluster-tests -- --everlog-bin "$EVERLOG_BIN"
	"$python" tests/cluster/sdk.py
}

# Every workload of the benchmark at a small size: histories are read back, nothing is timed.
step_bench-smoke() {
	require_rust
	cargo run --locked -q -p everlog-bench -- smoke --everlog-bin "$EVERLOG_BIN"
}

# Every fuzz target for some seconds: its corpus first, then changed inputs. What is found is kept in tests/fuzz/corpus.
step_fuzz() {
	require_rust
	cargo run --locked -q -p everlog-fuzz -- --seconds 5 --everlog-bin "$EVERLOG_BIN"
}

# --- what steps need ---------------------------------------------------------------------------------------------

# prepare_python: a virtual environment with the pinned packages; sets `python`.
prepare_python() {
	require_python
	local environment=$cache/tests/python
	[ -x "$environment/bin/python" ] || python3 -m venv "$environment"
	python=$environment/bin/python
	once "$environment/installed" tests/sdk/python/requirements.txt \
		"$python" -m pip install --quiet --disable-pip-version-check -r tests/sdk/python/requirements.txt
	export PYTHONDONTWRITEBYTECODE=1
}

# prepare_cli: the same with the `temporal` command line in it.
prepare_cli() {
	prepare_python
	once "$cache/tests/python/cli-installed" tests/cli/requirements.txt \
		"$python" -m pip install --quiet --disable-pip-version-check -r tests/cli/requirements.txt
}

# once STAMP INPUT COMMAND...: runs the command unless it has succeeded for this very content of INPUT.
once() {
	local stamp=$1 input=$2
	shift 2
	cmp -s "$stamp" "$input" && return
	"$@"
	cp "$input" "$stamp"
}

# The binary that the SDK suites, the crash test and the benchmark run; the one just built unless EVERLOG_BIN says otherwise.
find_binary() {
	[ -z "${EVERLOG_BIN:-}" ] || return 0
	require_rust
	local target
	target=$(cargo metadata --locked --format-version 1 --no-deps | grep -oE '"target_directory":"[^"]*"' | cut -d'"' -f4)
	step_build || fail "the build failed"
	export EVERLOG_BIN=$target/debug/everlog
}

# One server for all SDK suites, with everything in a temporary directory.
start_server() {
	[ -z "${EVERLOG_ADDRESS:-}" ] || return 0
	find_binary
	"$EVERLOG_BIN" dev --ephemeral --port 0 --http-port 0 --metrics-port 0 >"$logs/server.log" 2>&1 &
	server_pid=$!
	local deadline=$((SECONDS + serve_s_max)) address=
	while [ -z "$address" ]; do
		kill -0 "$server_pid" 2>/dev/null || { server_pid=; fail "the server ended while starting, see $logs/server.log"; }
		[ "$SECONDS" -lt "$deadline" ] || fail "the server did not serve within $serve_s_max s, see $logs/server.log"
		sleep 0.1
		address=$(sed -n 's/^everlog dev: grpc=\([^ ]*\).*/\1/p' "$logs/server.log")
	done
	export EVERLOG_ADDRESS=$address
	echo "--- server on $EVERLOG_ADDRESS, log in $logs/server.log"
}

# SIGTERM, upon which the server drains and ends with status 0 by itself.
stop_server() {
	[ -n "$server_pid" ] || return 0
	local pid=$server_pid status=0
	server_pid=
	unset EVERLOG_ADDRESS
	kill -TERM "$pid" 2>/dev/null || true
	(sleep "$drain_s_max" && kill -KILL "$pid") >/dev/null 2>&1 &
	local watchdog=$!
	wait "$pid" || status=$?
	kill "$watchdog" 2>/dev/null || true
	if [ "$status" -ne 0 ]; then
		tail -n 30 "$logs/server.log"
		echo "FAILED: the server ended with status $status instead of draining"
		failed=$((failed + 1))
		return 1
	fi
}

# --- running -----------------------------------------------------------------------------------------------------

# count STEP: adds the tests that the step's log reports to the totals; prints how many it found.
count() {
	local found
	found=$(awk -v step="$1" '
		# sum(word): the number that stands before `word` in the line.
		function sum(word) { return match($0, "[0-9]+ " word) ? substr($0, RSTART, RLENGTH) + 0 : 0 }
		step == "rust-tests" && /^test result:/ { passed += sum("passed"); failed += sum("failed") }
		step == "sdk-python" && /^=+ .* in [0-9.]+s/ { passed += sum("passed"); failed += sum("failed") + sum("error") }
		step == "sdk-typescript" && /^(#|ℹ) pass [0-9]+/ { passed += $3 }
		step == "sdk-typescript" && /^(#|ℹ) (fail|cancelled) [0-9]+/ { failed += $3 }
		step == "sdk-go" && /^ *--- PASS/ { passed++ }
		step == "sdk-go" && /^ *--- FAIL/ { failed++ }
		(step == "cli" || step == "http" || step == "crash" || step == "cluster" || step == "bench-smoke" || step == "fuzz") && /^[0-9]+ passed, [0-9]+ failed$/ { passed += $1; failed += $3 }
		END { print passed + 0, failed + 0 }' "$logs/$1.log")
	passed=$((passed + ${found% *}))
	failed=$((failed + ${found#* }))
	[ "$found" != "0 0" ]
}

# run STEP: its output goes to the terminal and to its log.
run() {
	local step=$1 began=$SECONDS status=0
	echo "=== $step"
	case $step in
	sdk-*) start_server ;;
	cli | http | crash | cluster | bench-smoke | fuzz)
		stop_server || finish 1
		find_binary
		;;
	esac
	# A subshell of its own, because `set -e` does not hold in a function whose status is tested.
	set +e
	(
		set -e
		"step_$step"
	) 2>&1 | tee "$logs/$step.log"
	status=${PIPESTATUS[0]}
	set -e
	local failed_before=$failed
	if ! count "$step" && [ "$status" -eq 0 ]; then
		passed=$((passed + 1))
	fi
	if [ "$status" -ne 0 ]; then
		[ "$failed" -gt "$failed_before" ] || failed=$((failed + 1))
		if [ -n "$server_pid" ] && ! kill -0 "$server_pid" 2>/dev/null; then
			echo "the server has ended; the end of its log:"
			tail -n 30 "$logs/server.log"
		fi
		echo "FAILED: step $step after $((SECONDS - began)) s (its output: $logs/$step.log)"
		finish 1
	fi
	echo "=== $step passed after $((SECONDS - began)) s"
}

# finish STATUS: prints the summary and ends.
finish() {
	stop_server || true
	echo "$passed passed, $failed failed"
	[ "$1" -ne 0 ] || rm -rf "$logs"
	exit "$1"
}

# Takes the place of toolchain.sh's, so that even then the last line is the summary. In a step, the step fails.
fail() {
	echo "error: $*" >&2
	[ "$BASH_SUBSHELL" -eq 0 ] || exit 1
	failed=$((failed + 1))
	finish 1
}

end_server() {
	[ -z "$server_pid" ] || kill -KILL "$server_pid" 2>/dev/null || true
}
trap end_server EXIT

steps=("${all_steps[@]}")
case ${1:-} in
"") ;;
--list)
	printf '%s\n' "${all_steps[@]}"
	exit
	;;
--only)
	shift
	[ $# -gt 0 ] || fail "--only needs the name of a step: ${all_steps[*]}"
	steps=("$@")
	;;
*) fail "unknown argument $1; known are --only STEP... and --list" ;;
esac
for step in "${steps[@]}"; do
	[[ " ${all_steps[*]} " == *" $step "* ]] || fail "unknown step $step; the steps are: ${all_steps[*]}"
done
for step in "${steps[@]}"; do
	run "$step"
done
stop_server || finish 1
finish 0
