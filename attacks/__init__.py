"""Attacks: functions that give images; one attack or family a file, and the published exams in `suites`."""
