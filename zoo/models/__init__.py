"""Networks, one per file; `blocks` holds what two or more of them share."""
