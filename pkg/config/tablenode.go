package config

func nodeFlags() []Flag {
	return []Flag{
		{Name: "node-name", Env: "KNARR_NODE_NAME", DefaultText: "the host's name", Roles: Both,
			Category: "Node", Usage: "Register the node as `NAME`",
			bind: one(nodeName(), func(s *Server) *string { return &s.Node.Name })},
		{Name: "with-node-id", Default: "false", Roles: Both,
			Category: "Node", Usage: "Append an id to the node's name that stays with the data-dir",
			bind: toggle(func(s *Server) *bool { return &s.Node.WithID })},
		{Name: "node-label", Roles: Both,
			Category: "Node", Usage: "Register the node with the label `KEY=VALUE`",
			bind: many(nodeLabel(), func(s *Server) *List[Label] { return &s.Node.Labels })},
		{Name: "node-taint", Roles: Both,
			Category: "Node", Usage: "Register the node with the taint `KEY=VALUE:EFFECT`",
			bind: many(nodeTaint(), func(s *Server) *List[Taint] { return &s.Node.Taints })},
		{Name: "image-credential-provider-bin-dir", DefaultText: "DATA-DIR/credentialprovider/bin, if there", Roles: Both,
			Category: "Node", Usage: "Find the kubelet's image credential providers in `DIR`",
			bind: one(directory(), func(s *Server) *string { return &s.Node.CredentialBinDir })},
		{Name: "image-credential-provider-config", DefaultText: "DATA-DIR/credentialprovider/config.yaml, if there", Roles: Both,
			Category: "Node", Usage: "Configure the kubelet's image credential providers from `FILE`",
			bind: one(readable(), func(s *Server) *string { return &s.Node.CredentialConfig })},
		{Name: "protect-kernel-defaults", Default: "false", Roles: Both,
			Category: "Node", Usage: "Fail when kernel settings are not as the kubelet wants them, in place of changing them",
			bind: toggle(func(s *Server) *bool { return &s.Node.ProtectKernelDefaults })},
		{Name: "prefer-bundled-bin", Default: "false", Roles: Both,
			Category: "Node", Usage: "Prefer the bundled programs to the host's",
			bind: toggle(func(s *Server) *bool { return &s.Node.PreferBundledBin })},
	}
}

func runtimeFlags() []Flag {
	return []Flag{
		{Name: "container-runtime-endpoint", DefaultText: "the containerd inside", Roles: Both,
			Category: "Container runtime", Usage: "Use the container runtime at the CRI socket `PATH`",
			bind: one(socket(), func(s *Server) *string { return &s.Runtime.Endpoint })},
		{Name: "image-service-endpoint", DefaultText: "container-runtime-endpoint", Roles: Both,
			Category: "Container runtime", Usage: "Use the image service at the CRI socket `PATH`",
			bind: one(socket(), func(s *Server) *string { return &s.Runtime.ImageEndpoint })},
		{Name: "default-runtime", Default: "runc", Roles: Both,
			Category: "Container runtime", Usage: "Run containers with containerd's runtime `NAME`",
			bind: one(handler(), func(s *Server) *string { return &s.Runtime.DefaultRuntime })},
		{Name: "snapshotter", Default: "overlayfs", Roles: Both,
			Category: "Container runtime", Usage: "Keep containers' file systems with containerd's snapshotter `NAME`: overlayfs, native or btrfs",
			bind: one(choice("overlayfs", "native", "btrfs"), func(s *Server) *string { return &s.Runtime.Snapshotter })},
		{Name: "pause-image", DefaultText: "the bundled one", Roles: Both,
			Category: "Container runtime", Usage: "Hold pods with the sandbox image `IMAGE`",
			bind: one(image(), func(s *Server) *string { return &s.Runtime.PauseImage })},
		{Name: "private-registry", Default: DefaultRegistryFile, Roles: Both,
			Category: "Container runtime", Usage: "Read mirrors and credentials of registries from `FILE`",
			bind: one(file(), func(s *Server) *string { return &s.Runtime.PrivateRegistry })},
		{Name: "disable-default-registry-endpoint", Default: "false", Roles: Both,
			Category: "Container runtime", Usage: "Do not try a registry itself when it has mirrors",
			bind: untoggle(func(s *Server) *bool { return &s.Runtime.DefaultRegistryEndpoint })},
		{Name: "nonroot-devices", Default: "false", Roles: Both,
			Category: "Container runtime", Usage: "Let a container that does not run as root use its devices",
			bind: toggle(func(s *Server) *bool { return &s.Runtime.NonrootDevices })},
		{Name: "selinux", Env: "KNARR_SELINUX", Default: "false", Roles: Both,
			Category: "Container runtime", Usage: "Label containers for SELinux",
			bind: toggle(func(s *Server) *bool { return &s.Runtime.SELinux })},
		{Name: "system-default-registry", Env: "KNARR_SYSTEM_DEFAULT_REGISTRY", Roles: RoleServer,
			Category: "Container runtime", Usage: "Take knarr's own images from `REGISTRY`",
			bind: one(registry(), func(s *Server) *string { return &s.SystemRegistry })},
	}
}

func diagnosticFlags() []Flag {
	return []Flag{
		{Name: "enable-pprof", Default: "false", Roles: Both,
			Category: "Diagnostics", Usage: "Serve Go's profiles on the API's port",
			bind: toggle(func(s *Server) *bool { return &s.Profiling })},
	}
}
