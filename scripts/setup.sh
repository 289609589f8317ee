#!/bin/sh
# Makes sure that a Vulkan driver is there. Installs software Vulkan on Debian and Ubuntu; says what to do elsewhere.
set -eu

case "$(uname -s)" in
    Darwin | MINGW* | MSYS* | CYGWIN*) exit 0 ;; # Metal and DX12 come with the system
esac

has_driver() {
    for folder in /usr/share/vulkan/icd.d /etc/vulkan/icd.d /usr/local/share/vulkan/icd.d; do
        ls "$folder"/*.json >/dev/null 2>&1 && return 0
    done
    [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ]
}

has_loader() {
    { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep -q 'libvulkan\.so\.1'
}

if has_driver && has_loader; then
    exit 0
fi

if ! command -v apt-get >/dev/null 2>&1; then
    echo "No Vulkan driver found. Install your GPU's Vulkan driver and the Vulkan loader, or Mesa's software" \
        "driver lavapipe (package mesa-vulkan-drivers or vulkan-swrast), then run this again." >&2
    exit 1
fi

sudo=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "No Vulkan driver found, and no sudo to install one: as root, run" \
            "apt-get install mesa-vulkan-drivers libvulkan1" >&2
        exit 1
    fi
    sudo=sudo
fi
echo "No Vulkan driver found: installing mesa-vulkan-drivers and libvulkan1 with apt-get${sudo:+ (sudo may ask for your password)}." >&2
$sudo apt-get update -qq
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq mesa-vulkan-drivers libvulkan1 >/dev/null
