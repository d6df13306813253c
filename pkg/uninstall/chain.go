package uninstall

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// chainPrefixes begin the names of the iptables chains of kube-proxy, the CNI
// plugins, flannel and knarr.
func chainPrefixes() []string { return []string{"KUBE-", "CNI-", "FLANNEL-", "KNARR-"} }

// findChains looks at every iptables the host has: the legacy and the nftables
// variant keep separate rules. A host without the programs has no such rules,
// since knarr brings none along.
func (f *finder) findChains(ctx context.Context) error {
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, variant := range []string{"legacy", "nft"} {
			program := family + "-" + variant
			if !f.mayHaveRules(family, variant) {
				continue
			}
			rules, err := f.run(ctx, program+"-save")
			if err != nil {
				continue // this kernel has no such tables, or the program is not there
			}
			_, chains := deletionOf(rules)
			if chains == 0 {
				continue
			}
			f.shared(Item{
				Kind: KindChain, Name: program, Note: fmt.Sprintf("%d chains", chains),
				remove: func(ctx context.Context, _ Options) []Kept { return keptOn(program, f.removeChains(ctx, program)) },
			})
		}
	}
	return nil
}

// mayHaveRules reports whether a program is there and asking it is harmless: the
// legacy programs load kernel modules just by being run, so they are run only when
// the kernel has legacy tables.
func (f *finder) mayHaveRules(family, variant string) bool {
	if variant == "legacy" {
		names, err := f.Table.NetFile(strings.TrimSuffix(family, "tables") + "_tables_names")
		if err != nil || len(names) == 0 {
			return false
		}
	}
	if f.Run != nil {
		return true
	}
	_, err := exec.LookPath(family + "-" + variant + "-save")
	return err == nil
}

// deletionOf turns the output of iptables-save into the input of iptables-restore
// --noflush that deletes our chains and every rule that leads to them, and nothing
// else; all tables change at once each. It also returns the number of chains.
func deletionOf(rules string) (script string, chains int) {
	var out strings.Builder
	var table, flush, jumps, drop []string
	for _, line := range strings.Split(rules, "\n") {
		fields := strings.Fields(withoutQuoted(line))
		switch {
		case strings.HasPrefix(line, "*"):
			table, flush, jumps, drop = []string{line}, nil, nil, nil
		case strings.HasPrefix(line, ":") && ownChain(strings.TrimPrefix(fields[0], ":")):
			name := strings.TrimPrefix(fields[0], ":")
			flush = append(flush, "-F "+name)
			drop = append(drop, "-X "+name)
			chains++
		case strings.HasPrefix(line, "-A ") && !ownChain(fields[1]) && leadsToOwnChain(fields):
			jumps = append(jumps, "-D "+strings.TrimPrefix(line, "-A "))
		case line == "COMMIT" && len(drop) > 0:
			for _, part := range [][]string{table, jumps, flush, drop, {"COMMIT"}} {
				for _, l := range part {
					out.WriteString(l + "\n")
				}
			}
		}
	}
	return out.String(), chains
}

// withoutQuoted leaves out what stands in double quotes: a comment may say anything.
func withoutQuoted(line string) string {
	parts := strings.Split(strings.ReplaceAll(line, `\"`, ""), `"`)
	var out strings.Builder
	for i := 0; i < len(parts); i += 2 {
		out.WriteString(parts[i])
	}
	return out.String()
}

func ownChain(name string) bool {
	for _, prefix := range chainPrefixes() {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// leadsToOwnChain reports whether a rule jumps or goes to one of our chains.
func leadsToOwnChain(fields []string) bool {
	for i, field := range fields[:len(fields)-1] {
		if (field == "-j" || field == "-g") && ownChain(fields[i+1]) {
			return true
		}
	}
	return false
}

// removeChains reads the rules again, since others change them too, and feeds the
// deletion to iptables-restore.
func (l Layout) removeChains(ctx context.Context, program string) error {
	rules, err := l.run(ctx, program+"-save")
	if err != nil {
		return fmt.Errorf("read rules: %w", err)
	}
	script, chains := deletionOf(rules)
	if chains == 0 {
		return nil
	}
	file, err := os.CreateTemp("", "knarr-iptables-*")
	if err != nil {
		return fmt.Errorf("write rules to delete: %w", err)
	}
	defer os.Remove(file.Name())
	_, err = file.WriteString(script)
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("write rules to delete: %w", err)
	}
	if _, err := l.run(ctx, program+"-restore", "--noflush", "--wait", file.Name()); err != nil {
		return fmt.Errorf("delete chains: %w", err)
	}
	return nil
}
