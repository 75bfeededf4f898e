"""The audit log: who asked for which change, and what came of it."""

from runtimed.audit.audit_log import AuditLog
from runtimed.audit.destinations import AuditPolicy
from runtimed.audit.record import AuditRecord

__all__ = ["AuditLog", "AuditPolicy", "AuditRecord"]
