"""The model (schedule, basis, preconditioner, networks), its training, and its flow."""
