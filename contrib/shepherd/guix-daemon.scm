;;; SPDX-License-Identifier: GPL-3.0-or-later
;;; storedaemon as the Shepherd service guix-daemon. Load it from the Shepherd's
;;; configuration, or with `herd load root FILE'. Adapt the paths and options.

(use-modules (shepherd service))

(define %guix-daemon-command
  '("/opt/storedaemon/contrib/guix-daemon"
    "--build-users-group=guixbuild"))

(define %guix-daemon
  (service
   '(guix-daemon)
   #:documentation "Build derivations, and keep the store."
   #:requirement '()
   #:start (make-forkexec-constructor
            %guix-daemon-command
            #:environment-variables
            (cons "LC_ALL=C.UTF-8" (default-environment-variables))
            #:log-file "/var/log/guix-daemon.log")
   ;; It ends its builds in order, which may take a moment.
   #:stop (make-kill-destructor #:grace-period 60)
   #:respawn? #t))

(register-services (list %guix-daemon))
