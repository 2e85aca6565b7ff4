"""Files for Prometheus and Grafana: a scrape configuration, alert rules and dashboards for federations."""

from oneflower.monitoring.files import Limits, Target, Written, write_files

__all__ = ["Limits", "Target", "Written", "write_files"]
