"""Simulates services over a trace in virtual time. Pure, and no part of core."""
