// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

/// A payer that is a contract (ERC-1271), as smart wallets are: its owner signs, and the wallet says whether it stands
/// by that. The owner's 65 bytes may be followed by others, as wallets send owners' numbers and passkeys' data along.
///
/// Tests write its storage: who the owner is, and how it misbehaves.
contract SmartWallet {
    enum Manner {
        Honest,
        Refuses,
        Reverts,
        AnswersTooLittle,
        AnswersTooMuch,
        AnswersWithMore,
        BurnsGas,
        Breaks,
        LiesToCalls,
        BurnsGasWhenMined,
        TakesAnything
    }

    address public owner;
    uint256 public manner; // a `Manner`, in a slot of its own

    bytes4 private constant ACCEPTED = 0x1626ba7e;

    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        Manner how = Manner(manner);
        // What only looks has no price for gas; what is mined has.
        bool isMined = tx.gasprice > 0;
        if (how == Manner.Refuses || (how == Manner.LiesToCalls && isMined)) return 0xffffffff;
        if (how == Manner.Reverts) revert("SmartWallet: no");
        if (how == Manner.BurnsGas || (how == Manner.BurnsGasWhenMined && isMined)) {
            while (true) {}
        }
        if (how == Manner.Breaks) {
            assembly ("memory-safe") {
                invalid()
            }
        }
        if (how == Manner.AnswersTooLittle) {
            assembly ("memory-safe") {
                mstore(0, ACCEPTED)
                return(0, 4)
            }
        }
        if (how == Manner.AnswersTooMuch) {
            assembly ("memory-safe") {
                mstore(0, ACCEPTED)
                mstore(32, 1)
                return(0, 64)
            }
        }
        if (how == Manner.AnswersWithMore) {
            assembly ("memory-safe") {
                mstore(0, or(ACCEPTED, 1))
                return(0, 32)
            }
        }
        if (how == Manner.TakesAnything) return ACCEPTED;
        return _isOwners(hash, signature) ? ACCEPTED : bytes4(0xffffffff);
    }

    function _isOwners(bytes32 hash, bytes calldata signature) private view returns (bool) {
        if (signature.length < 65 || owner == address(0)) return false;
        bytes32 r = bytes32(signature[:32]);
        bytes32 s = bytes32(signature[32:64]);
        return ecrecover(hash, uint8(signature[64]), r, s) == owner;
    }
}
