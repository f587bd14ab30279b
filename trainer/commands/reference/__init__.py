"""The reference: every option, setting, metric and exit code, read from the code itself."""
