package config

import "time"

// backupFlags have k3s's names for etcd's snapshots as aliases: knarr's backups take their place, whatever the datastore.
func backupFlags() []Flag {
	return []Flag{
		{Name: "backup-schedule", Aliases: []string{"etcd-snapshot-schedule-cron"}, Env: "KNARR_BACKUP_SCHEDULE", Default: "0 */12 * * *", Roles: RoleServer,
			Category: "Backups", Usage: "Make backups at the times of the cron expression `SPEC`",
			bind: one(cronSpec(), func(s *Server) *string { return &s.Backup.Schedule })},
		{Name: "disable-backups", Aliases: []string{"etcd-disable-snapshots"}, Default: "false", Roles: RoleServer,
			Category: "Backups", Usage: "Make no backups by schedule",
			bind: untoggle(func(s *Server) *bool { return &s.Backup.Scheduled })},
		{Name: "disable-upgrade-backup", Default: "false", Roles: RoleServer,
			Category: "Backups", Usage: "Make no backup before another version of knarr first uses the data",
			bind: untoggle(func(s *Server) *bool { return &s.Backup.BeforeUpgrade })},
		{Name: "backup-retention", Aliases: []string{"etcd-snapshot-retention"}, Default: "5", Roles: RoleServer,
			Category: "Backups", Usage: "Keep the newest `N` backups",
			bind: one(positive(), func(s *Server) *int { return &s.Backup.Retention })},
		{Name: "backup-dir", Aliases: []string{"etcd-snapshot-dir"}, DefaultText: "backups in the data-dir", Roles: RoleServer,
			Category: "Backups", Usage: "Put backups into `DIR`",
			bind: one(file(), func(s *Server) *string { return &s.Backup.Dir })},
		{Name: "backup-name", Aliases: []string{"etcd-snapshot-name"}, Default: "knarr", Roles: RoleServer,
			Category: "Backups", Usage: "Begin the names of backups with `NAME`; retention counts those that do",
			bind: one(seriesName(), func(s *Server) *string { return &s.Backup.Name })},
		{Name: "backup-compression", Default: "default", Roles: RoleServer,
			Category: "Backups", Usage: "Compress backups with `EFFORT`",
			bind: one(choice("fast", "default", "better", "best"), func(s *Server) *string { return &s.Backup.Compression })},
		{Name: "backup-passphrase-file", Env: "KNARR_BACKUP_PASSPHRASE_FILE", Roles: RoleServer,
			Category: "Backups", Usage: "Encrypt backups with the first line of `FILE`",
			bind: one(passphraseFile(), func(s *Server) *Secret { return &s.Backup.Passphrase })},
	}
}

func backupS3Flags() []Flag {
	row := func(name, env, def, usage string, b binding) Flag {
		f := Flag{Name: "backup-s3" + name, Aliases: []string{"etcd-s3" + name}, Default: def, Roles: RoleServer, Category: "Backups", Usage: usage, bind: b}
		if env != "" {
			f.Env = "KNARR_BACKUP_S3_" + env
		}
		return f
	}
	return []Flag{
		row("", "", "false", "Send backups to an S3 service as well", toggle(func(s *Server) *bool { return &s.Backup.S3.Enabled })),
		row("-endpoint", "ENDPOINT", "s3.amazonaws.com", "Reach the S3 service at `HOST[:PORT]`",
			one(hostPort(), func(s *Server) *string { return &s.Backup.S3.Endpoint })),
		row("-endpoint-ca", "ENDPOINT_CA", "", "Trust the S3 service if the CAs in `FILE` do",
			one(readable(), func(s *Server) *string { return &s.Backup.S3.CAFile })),
		row("-skip-ssl-verify", "", "false", "Trust the S3 service whoever it is", toggle(func(s *Server) *bool { return &s.Backup.S3.SkipVerify })),
		row("-insecure", "", "false", "Speak HTTP with the S3 service", toggle(func(s *Server) *bool { return &s.Backup.S3.Insecure })),
		row("-bucket", "BUCKET", "", "Keep backups in the bucket `NAME`", one(bucket(), func(s *Server) *string { return &s.Backup.S3.Bucket })),
		row("-bucket-lookup-type", "", "auto", "Address the bucket by `HOW`",
			one(choice("auto", "dns", "path"), func(s *Server) *string { return &s.Backup.S3.Lookup })),
		row("-folder", "FOLDER", "", "Keep backups below `PREFIX` in the bucket", one(plainText(), func(s *Server) *string { return &s.Backup.S3.Folder })),
		row("-region", "REGION", "us-east-1", "The bucket is in `REGION`", one(plainText(), func(s *Server) *string { return &s.Backup.S3.Region })),
		row("-access-key", "ACCESS_KEY", "", "Log in to the S3 service with the access `KEY`",
			one(token(), func(s *Server) *Secret { return &s.Backup.S3.AccessKey })),
		row("-secret-key", "SECRET_KEY", "", "Log in to the S3 service with the secret `KEY`",
			one(token(), func(s *Server) *Secret { return &s.Backup.S3.SecretKey })),
		row("-session-token", "SESSION_TOKEN", "", "Log in to the S3 service with the session's `TOKEN`",
			one(token(), func(s *Server) *Secret { return &s.Backup.S3.SessionToken })),
		row("-retention", "", "5", "Keep the newest `N` backups in the bucket", one(positive(), func(s *Server) *int { return &s.Backup.S3.Retention })),
		row("-proxy", "", "", "Reach the S3 service through the proxy at `URL`", one(proxyURL(), func(s *Server) *Secret { return &s.Backup.S3.Proxy })),
		row("-timeout", "", "5m0s", "Give each exchange with the S3 service `DURATION`",
			one(duration(), func(s *Server) *time.Duration { return &s.Backup.S3.Timeout })),
		row("-config-secret", "", "", "With --backup-s3 alone, read what the other flags would say from the Secret `NAME` in kube-system, whenever it is needed",
			one(objectName(), func(s *Server) *string { return &s.Backup.S3.ConfigSecret })),
	}
}
