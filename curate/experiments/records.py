"""What studies call their records: to look for one costs no import of what makes it."""

CALIBRATION, SWEEP = "calibration.json", "sweep.json"
