#!/usr/bin/env bash
# Chromium and its driver for the tests of the report page. Nothing is started by it.
set -euo pipefail

lacking() {
  for program in chromium chromedriver; do
    command -v "$program" >/dev/null || echo "$program"
  done
}

[ -n "$(lacking)" ] || exit 0
packages=(chromium chromium-driver fonts-dejavu-core)
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "missing: $(lacking | tr '\n' ' '); on Debian, as root: apt-get install ${packages[*]}" >&2
  exit 1
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
echo "installed: ${packages[*]}"
