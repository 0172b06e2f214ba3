"""The BIDS-App: plan, run, results, derivatives."""
