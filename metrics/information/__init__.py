"""Information of tables of probabilities: entropies, Bayes accuracies, partial information decompositions."""
