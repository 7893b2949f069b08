"""What tests of several rooms share: tiny models in every layout, fake hub, killed processes."""
