"""Accounts and their requests, replayed at an open-loop rate."""
