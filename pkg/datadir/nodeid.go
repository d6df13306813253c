package datadir

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// ReadNodeID is the node's id, eight hexadecimal digits: the one kept in
// [Dir.NodeID], or a random one, which [Dir.KeepNodeID] is to keep.
func (d Dir) ReadNodeID() (string, error) {
	data, err := os.ReadFile(d.NodeID())
	if err == nil {
		id := strings.TrimSpace(string(data))
		if !regexp.MustCompile(`^[0-9a-f]{8}$`).MatchString(id) {
			return "", fmt.Errorf("read node id: %s holds %q, not eight hexadecimal digits: write the end of the node's name into it", d.NodeID(), id)
		}
		return id, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read node id: %w", err)
	}
	var raw [4]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return "", fmt.Errorf("draw node id: %w", err)
	}
	return hex.EncodeToString(raw[:]), nil
}

// KeepNodeID makes id the node's for all later starts. The caller holds the
// [Lock].
func (d Dir) KeepNodeID(id string) error {
	if err := atomicfile.MkdirAll(filepath.Dir(d.NodeID()), dirMode); err != nil {
		return fmt.Errorf("write node id: %w", err)
	}
	if err := atomicfile.Write(d.NodeID(), []byte(id+"\n"), stampMode); err != nil {
		return fmt.Errorf("write node id: %w", err)
	}
	return nil
}
