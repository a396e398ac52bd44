"""The foundation of all other packages: files, locks, parameters, devices. It knows no models."""
