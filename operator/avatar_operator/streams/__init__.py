"""State streams of runtime pods and gateways."""
