package config

import (
	"maps"
	"slices"
	"strings"
)

// SecretBackupS3 is a [BackupS3] as a Secret says it.
type SecretBackupS3 struct {
	BackupS3
	// CA is a bundle of CA certificates in PEM, and CAConfigMap names a ConfigMap with more; empty when not given.
	CA          []byte
	CAConfigMap string
}

// BackupS3From reads where backups are kept from the data of a Secret. Its keys are the names of the flags, knarr's or
// k3s's, without dashes before them; a key that is missing or empty means the flag's default. "endpoint-ca" is no path
// there but the certificates, and "endpoint-ca-name" is a ConfigMap's name. where names the Secret in problems, which the
// [*Error] has all.
func BackupS3From(where string, data map[string][]byte) (SecretBackupS3, error) {
	var s Server
	s.Backup.S3.Enabled = true
	l := &loader{origin: make(map[string]setting), bad: make(map[string]bool)}
	get := func(names ...string) (string, string) {
		for _, name := range names {
			if text := strings.TrimSpace(string(data[name])); text != "" {
				return name, text
			}
		}
		return "", ""
	}
	known := map[string]bool{"etcd-s3-endpoint-ca-name": true, "backup-s3-endpoint-ca-name": true}
	for _, f := range backupS3Flags()[1:] {
		if f.Name == "backup-s3-config-secret" {
			continue
		}
		for _, name := range f.Names() {
			known[name] = true
		}
		name, text := get(f.Names()...)
		if text == "" {
			text = f.Default
		}
		if text != "" && f.Name != "backup-s3-endpoint-ca" {
			f.bind.apply(l, &f, &s, []setting{{where + ": " + name, text}})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(data)) {
		if !known[name] {
			l.report(where+": "+name, "", "unknown key; the keys are the names of the --backup-s3 flags, or k3s's of its --etcd-s3 flags")
		}
	}
	if s.Backup.S3.Bucket == "" && len(l.problems) == 0 {
		l.report(where, "", "has no backup-s3-bucket; it is needed")
	}
	if len(l.problems) > 0 {
		return SecretBackupS3{}, &Error{Problems: l.problems}
	}
	out := SecretBackupS3{BackupS3: s.Backup.S3}
	_, ca := get("backup-s3-endpoint-ca", "etcd-s3-endpoint-ca")
	if ca != "" {
		out.CA = []byte(ca + "\n")
	}
	_, out.CAConfigMap = get("backup-s3-endpoint-ca-name", "etcd-s3-endpoint-ca-name")
	return out, nil
}
