"""The workshop's models and data sets, as plain Keras code a newcomer can read."""
