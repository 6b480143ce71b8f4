# Sourced, not run: installs what building and testing Everlog needs and the machine lacks.
# Everything goes where its own installer puts it; nothing into the checkout.

fail() {
	echo "error: $*" >&2
	exit 1
}

have() {
	command -v "$1" >/dev/null 2>&1
}

# install_packages PACKAGE...: with apt-get, which needs root and a Debian-like system.
install_packages() {
	have apt-get || fail "please install: $*"
	local sudo=()
	if [ "$(id -u)" -ne 0 ]; then
		have sudo && sudo -n true 2>/dev/null || fail "please install, or run this as root: $*"
		sudo=(sudo)
	fi
	echo "installing $*"
	"${sudo[@]}" apt-get update -qq
	DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# bindgen loads libclang when RocksDB's bindings are generated.
has_libclang() {
	[ -n "${LIBCLANG_PATH:-}" ] ||
		compgen -G '/usr/lib/llvm-*/lib/libclang.so*' >/dev/null ||
		compgen -G '/usr/lib/llvm-*/lib/libclang-[0-9]*.so*' >/dev/null ||
		compgen -G '/usr/lib/*/libclang[.-][s0-9]*so*' >/dev/null
}

# What `cargo build` needs: cargo, a C++ compiler for RocksDB, libclang for its bindings.
require_rust() {
	local packages=()
	have c++ || packages+=(g++)
	has_libclang || packages+=(libclang-dev clang)
	have make || packages+=(make)
	export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
	if ! have cargo; then
		have curl || packages+=(curl ca-certificates)
	fi
	[ ${#packages[@]} -eq 0 ] || install_packages "${packages[@]}"
	if ! have cargo; then
		echo "installing a Rust toolchain with rustup"
		curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y -q --no-modify-path --profile minimal
	fi
}

# is_at_least MINIMUM VERSION: compares dotted versions.
is_at_least() {
	[ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

# require_version TOOL MINIMUM VERSION-COMMAND...: fails if the tool is older.
require_version() {
	local tool=$1 minimum=$2 version
	shift 2
	version=$("$@" 2>&1 | grep -oE '[0-9]+(\.[0-9]+)+' | head -n 1)
	is_at_least "$minimum" "$version" || fail "$tool $minimum or newer is needed, this is $version"
}

require_python() {
	have python3 && python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3 python3-venv
	require_version python 3.10 python3 --version
}

require_node() {
	{ have node && have npm; } || install_packages nodejs npm
	require_version node 20.3 node --version
}

require_go() {
	have go || { [ -x /usr/local/go/bin/go ] && export PATH="/usr/local/go/bin:$PATH"; } || install_packages golang-go
	# From 1.21 on, Go fetches the version that go.mod asks for by itself.
	require_version go 1.21 go version
}
