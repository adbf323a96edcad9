"""Files written whole or not at all, folders for what can be made anew, addresses, JSON and TOML, full disks."""
