"""Sweeps: many trainings that differ in some settings, here or as a job array. The pure parts are in `study`."""
