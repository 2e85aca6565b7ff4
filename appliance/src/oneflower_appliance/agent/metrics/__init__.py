"""What a machine measures, and the exporter at which Prometheus reads it: only if FL_METRICS_ENABLED says so."""
