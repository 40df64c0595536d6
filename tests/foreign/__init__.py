"""Other people's Kafka clients against the service: see README.md."""
