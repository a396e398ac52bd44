"""What everything stands on, without knowledge of models: files, locks, parameters, devices."""
