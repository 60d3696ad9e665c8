"""Each step's output goes in; log lines, diagnostics, alarms and validation scores come out."""
