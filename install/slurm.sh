#!/usr/bin/env bash
# Slurm, munge and MariaDB for the tests on a private Slurm. Nothing is started by it.
set -euo pipefail

programs=(slurmctld slurmd slurmdbd sbatch munged mariadbd)
lacking() {
  for program in "${programs[@]}"; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || echo "$program"
  done
}

[ -n "$(lacking)" ] || exit 0
packages=(slurmctld slurmd slurm-client slurmdbd munge mariadb-server)
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "missing: $(lacking | tr '\n' ' '); on Debian, as root: apt-get install ${packages[*]}" >&2
  exit 1
fi
apt-get update -qq
# Debian starts services on installation where an init system is there: not these.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
echo "installed: ${packages[*]}"
