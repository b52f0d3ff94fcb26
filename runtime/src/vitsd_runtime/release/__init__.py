"""Signed releases of models for many devices, and the agent that installs them on one.

:mod:`~vitsd_runtime.release.publish` is the publisher's side, :mod:`~vitsd_runtime.release.agent`
the device's. What they exchange is in :mod:`~vitsd_runtime.release.statements`, each statement
sealed in an envelope (:mod:`~vitsd_runtime.release.envelope`). Needs the extra ``release``.
"""
