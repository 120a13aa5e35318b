"""The processes that run for years: HTTP, the status page, metrics, notifications, CloudEvents, reload and traces."""
