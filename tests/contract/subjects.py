"""The drivers under contract: a further one is tested by one more entry."""

from __future__ import annotations

from docker_subject import DockerSubject
from libvirt_subject import LibvirtSubject
from native_subject import NativeSubject
from subject import PROGRAMS, Subject

__all__ = ["PROGRAMS", "SUBJECTS", "Subject"]

SUBJECTS: dict[str, Subject] = {
    subject.name: subject for subject in (DockerSubject(), NativeSubject(), LibvirtSubject())
}
