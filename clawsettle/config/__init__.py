"""Settings: clawsettle.toml, the environment and credential files become frozen classes."""
