#!/bin/sh
# Makes sure that a Vulkan driver is there, and with --tests what the tests need beside it: MPI, and libclang for its bindings. Installs
# packages on Debian and Ubuntu; says what to do elsewhere.
set -eu

packages=
has_mpi() {
    command -v mpirun >/dev/null 2>&1 && command -v mpicc >/dev/null 2>&1
}

has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] || find /usr/lib /usr/lib64 -maxdepth 4 -name 'libclang*.so*' 2>/dev/null | grep -q .
}

if [ "${1:-}" = --tests ] && [ "$(uname -s)" = Linux ] && ! { has_mpi && has_libclang; }; then
    packages="libopenmpi-dev openmpi-bin libclang-dev"
fi

has_driver() {
    for folder in /usr/share/vulkan/icd.d /etc/vulkan/icd.d /usr/local/share/vulkan/icd.d; do
        ls "$folder"/*.json >/dev/null 2>&1 && return 0
    done
    [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ]
}

has_loader() {
    { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep -q 'libvulkan\.so\.1'
}

case "$(uname -s)" in
    Darwin | MINGW* | MSYS* | CYGWIN*) ;; # Metal and DX12 come with the system
    *) has_driver && has_loader || packages="mesa-vulkan-drivers libvulkan1 $packages" ;;
esac

if [ -z "$packages" ]; then
    exit 0
fi

if ! command -v apt-get >/dev/null 2>&1; then
    echo "Missing, by the names of Debian's packages: $packages. Install a GPU's Vulkan driver with the Vulkan loader, or Mesa's" \
        "software driver lavapipe (package mesa-vulkan-drivers or vulkan-swrast), and for the tests Open MPI and libclang, then run" \
        "this again." >&2
    exit 1
fi

sudo=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "Packages are missing, and there is no sudo to install them: as root, run apt-get install $packages" >&2
        exit 1
    fi
    sudo=sudo
fi
echo "Installing $packages with apt-get${sudo:+ (sudo may ask for your password)}." >&2
$sudo apt-get update -qq
# The names are words.
# shellcheck disable=SC2086
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $packages >/dev/null
