#!/bin/sh
# Starts Everlog as SDKs start Temporal's test server: the port comes first, and `--enable-time-skipping` says that time is skipped from the
# start. Give this file's path where an SDK takes that of a test server; EVERLOG_BIN is the binary if `everlog` is not on the path.
set -eu
port=$1
shift
state=locked
for argument in "$@"; do
	case $argument in
	--enable-time-skipping) state=unlocked ;;
	*)
		echo "test-server.sh: unexpected argument '$argument'; usage: test-server.sh PORT [--enable-time-skipping]" >&2
		exit 2
		;;
	esac
done
exec "${EVERLOG_BIN:-everlog}" dev "--time-skipping=$state" --port "$port" --http-port 0 --metrics-port 0 --log-level warn
